"""`s2l.v1.Info`: what the server serves and how it is doing."""

from dataclasses import asdict

import grpc.aio

from serving.client.types import ModelInfo
from serving.grpc.guard import guarded
from serving.protos.s2l.v1 import info_pb2 as pb
from serving.protos.s2l.v1 import info_pb2_grpc
from serving.session_owner import SessionOwner


class InfoServicer(info_pb2_grpc.InfoServicer):
    """Answers questions about the server.

    Args:
      orchestrator: has the counters.
      model: what is served.
    """

    def __init__(self, orchestrator: SessionOwner, model: ModelInfo) -> None:
        self._orchestrator = orchestrator
        self._model = model

    @guarded
    async def GetModel(self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext) -> pb.Model:  # noqa: N802
        """The model and how to prompt it."""
        model, prompt = self._model, self._model.prompt
        return pb.Model(
            name=model.name,
            max_model_len=model.max_model_len,
            vocab_size=model.vocab_size,
            bos_token_id=model.bos_token_id,
            eos_token_ids=model.eos_token_ids,
            default_max_tokens=model.default_max_tokens,
            prompt=pb.PromptPieces(
                before_context=prompt.before_context,
                before_question=prompt.before_question,
                after_question=prompt.after_question,
                add_bos=prompt.add_bos,
            ),
            server_version=model.server_version,
            policy=model.policy,
        )

    @guarded
    async def GetStats(self, request: pb.GetStatsRequest, context: grpc.aio.ServicerContext) -> pb.Stats:  # noqa: N802
        """Counters of sessions, blocks, host pool, steps and preemptions."""
        stats = self._orchestrator.stats().scheduler
        return pb.Stats(
            sessions=stats.sessions,
            free_blocks=stats.free_blocks + stats.cached_blocks,  # what is cached makes room at once
            held_blocks=stats.held_blocks,
            total_blocks=stats.total_blocks,
            steps=stats.steps,
            preemptions=pb.Preemptions(**asdict(stats.preemptions)),
            cached_blocks=stats.cached_blocks,
            host=pb.HostStats(**asdict(stats.host)),
        )
