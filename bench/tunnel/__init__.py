"""How many long answers reach their callers through a tunnel that cuts what is silent."""
