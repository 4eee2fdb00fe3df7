"""The Pipeline Zoo: models in the folders of a Git repository, their large files behind Git LFS."""

from worker.hubs.pipeline_zoo.hub import PipelineZooHub

__all__ = ["PipelineZooHub"]
