"""Recipes: closed models, typed references, the derived DAG, fingerprints, profiles. Imports neither torch nor the store."""
