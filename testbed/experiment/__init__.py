"""The experiment: one YAML file that contains everything on which a run depends."""
