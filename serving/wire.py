"""Conversion between `s2l.v1` messages and the types that the rest of the code uses."""

from collections.abc import Sequence

from s2l_jax.core.constraint import Constraint
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.params import SamplingParams
from serving.protos.s2l.v1 import streaming_pb2 as pb

Content = str | Sequence[int] | None


def content_to_wire(content: Content) -> pb.Content | None:
    """A message for text or token ids, None for no content.

    Raises:
      InvalidArgument: the text is not valid Unicode, or a token id does not fit into 32 bits or is no integer.
    """
    if content is None:
        return None
    if isinstance(content, str):
        try:
            return pb.Content(text=content)
        except ValueError as error:
            raise InvalidArgument(f"content is no text that can be sent: {error}") from error
    try:
        return pb.Content(token_ids=pb.TokenIds(ids=content))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument(f"content must be text or a sequence of token ids in 0 .. 2**31: {error}") from error


def content_from_wire(content: pb.Content) -> Content:
    """Text, token ids, or None if the message is empty."""
    match content.WhichOneof("kind"):
        case "text":
            return content.text
        case "token_ids":
            return list(content.token_ids.ids)
        case _:
            return None


def params_to_wire(params: SamplingParams | None) -> pb.SamplingParams:
    """Sampling parameters as sent; None leaves all to the server."""
    if params is None:
        return pb.SamplingParams()
    return pb.SamplingParams(
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=params.seed,
        stop=params.stop,
        stop_token_ids=sorted(params.stop_token_ids),
        ignore_eos=params.ignore_eos,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logprobs=params.logprobs,
        constraint=None if params.constraint is None else _constraint_to_wire(params.constraint),
    )


def params_from_wire(wire: pb.SamplingParams, *, default_max_tokens: int) -> SamplingParams:
    """Sampling parameters as received; zeros mean off, or the default for `max_tokens`.

    Raises:
      InvalidArgument: a field is out of range.
    """
    return SamplingParams(
        max_tokens=wire.max_tokens or default_max_tokens,
        temperature=wire.temperature,
        top_k=wire.top_k,
        top_p=wire.top_p or 1.0,
        min_p=wire.min_p,
        seed=wire.seed if wire.HasField("seed") else None,
        stop=tuple(wire.stop),
        stop_token_ids=frozenset(wire.stop_token_ids),
        ignore_eos=wire.ignore_eos,
        repetition_penalty=wire.repetition_penalty or 1.0,
        presence_penalty=wire.presence_penalty,
        frequency_penalty=wire.frequency_penalty,
        logprobs=wire.logprobs if wire.HasField("logprobs") else None,
        constraint=_constraint_from_wire(wire.constraint) if wire.HasField("constraint") else None,
    )


def _constraint_to_wire(constraint: Constraint) -> pb.Constraint:
    if constraint.kind == "json":
        return pb.Constraint(json_schema=constraint.text)
    if constraint.kind == "regex":
        return pb.Constraint(regex=constraint.text)
    return pb.Constraint(choice=pb.Choice(texts=constraint.texts))


def _constraint_from_wire(wire: pb.Constraint) -> Constraint:
    match wire.WhichOneof("kind"):
        case "json_schema":
            return Constraint.json(wire.json_schema)
        case "regex":
            return Constraint.regex(wire.regex)
        case "choice":
            return Constraint.choice(wire.choice.texts)
        case _:
            raise InvalidArgument("params.constraint is empty: set json_schema, regex or choice")
