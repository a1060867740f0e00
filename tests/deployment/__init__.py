"""Files for deployment, held to the code they name."""
