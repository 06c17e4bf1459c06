"""Generation: diffusers pipelines from text, pictures and videos to videos."""

import lumiere.compat  # noqa: F401  before diffusers
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.pipelines.pipeline_output import LumierePipelineOutput, LumiereUpscalePipelineOutput
from lumiere.pipelines.pipeline_ssr import LumiereUpscalePipeline

__all__ = [
    "LumierePipeline",
    "LumierePipelineOutput",
    "LumiereUpscalePipeline",
    "LumiereUpscalePipelineOutput",
]
