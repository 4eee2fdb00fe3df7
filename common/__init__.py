"""What the API and the workers share: the domain, the job table, the artefact store."""
