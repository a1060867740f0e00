"""The Celery app, one thin task per job, the sweeper."""
