"""hanforge's library: recipes, the store, and one room per kind of stage. Imports neither `jobs` nor `k8s`."""
