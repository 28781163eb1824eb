"""A data root of our own invention for the AppWorld engine: people, apps, tasks and their evaluation."""
