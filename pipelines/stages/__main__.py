"""What DVC starts for a stage: `python -m pipelines.stages STAGE [BRANCH]`.

`python -m pipelines.stages.start MODULE ...` starts another module of the stages in the same way.
"""

from pipelines.stages.start import start

if __name__ == "__main__":
    start("pipelines.stages.one_stage")
