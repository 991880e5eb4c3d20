"""The only place where the registry's facts and the weights meet: jobs, stages, command line."""
