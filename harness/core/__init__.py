"""What everything stands on: types, errors, seeds, plugs, records, provenance, fingerprints. No model, no
environment, no clock."""
