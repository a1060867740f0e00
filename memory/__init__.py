"""The kernel: journal, ledger, fence, vault, jobs, unit of work, and the ports Store and Parser."""
