"""Inside verl 0.9: what a job of its trainer imports of this project (`harness export verl` writes such a job).

    credit    advantages of verl's batches by our methods, and why a method cannot be one of them
    loss      verl's policy loss by `harness.losses.policy_loss`
    loop      our environments, played by our rollout engine on verl's servers, as one of its agent loops
    tasks     the tasks of a run in its own order, as verl's data set
    trainer   verl's synchronous trainer, which shows whole episodes to the estimator
    plugin    all of it put into verl's registries

verl drives: its trainer samples, scores, steps and saves; no record of ours is written. None of these modules imports
verl before it is called.
"""
