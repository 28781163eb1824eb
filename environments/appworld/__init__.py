"""AppWorld: tasks over nine everyday apps, run by the benchmark's own engine in an interpreter of its own."""
