"""Recipes: closed models, typed references, the derived DAG, fingerprints, profiles. No torch, no store."""
