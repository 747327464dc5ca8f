from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EngineDescription(_message.Message):
    __slots__ = ("role", "model", "version", "kv", "num_blocks", "block_size", "token_budget", "max_batch", "max_sessions", "max_model_len", "host_blocks", "pulls_pages")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KV_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BUDGET_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    HOST_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PULLS_PAGES_FIELD_NUMBER: _ClassVar[int]
    role: str
    model: str
    version: str
    kv: str
    num_blocks: int
    block_size: int
    token_budget: int
    max_batch: int
    max_sessions: int
    max_model_len: int
    host_blocks: int
    pulls_pages: bool
    def __init__(self, role: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., kv: _Optional[str] = ..., num_blocks: _Optional[int] = ..., block_size: _Optional[int] = ..., token_budget: _Optional[int] = ..., max_batch: _Optional[int] = ..., max_sessions: _Optional[int] = ..., max_model_len: _Optional[int] = ..., host_blocks: _Optional[int] = ..., pulls_pages: bool = ...) -> None: ...

class EngineCommand(_message.Message):
    __slots__ = ("step", "gather", "scatter", "forget")
    STEP_FIELD_NUMBER: _ClassVar[int]
    GATHER_FIELD_NUMBER: _ClassVar[int]
    SCATTER_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    step: Step
    gather: Gather
    scatter: Scatter
    forget: int
    def __init__(self, step: _Optional[_Union[Step, _Mapping]] = ..., gather: _Optional[_Union[Gather, _Mapping]] = ..., scatter: _Optional[_Union[Scatter, _Mapping]] = ..., forget: _Optional[int] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("step_id", "attempt", "chunks", "samples", "saves", "loads", "copies")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAVES_FIELD_NUMBER: _ClassVar[int]
    LOADS_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    attempt: int
    chunks: _containers.RepeatedCompositeFieldContainer[StepChunk]
    samples: _containers.RepeatedCompositeFieldContainer[StepSample]
    saves: bytes
    loads: bytes
    copies: bytes
    def __init__(self, step_id: _Optional[int] = ..., attempt: _Optional[int] = ..., chunks: _Optional[_Iterable[_Union[StepChunk, _Mapping]]] = ..., samples: _Optional[_Iterable[_Union[StepSample, _Mapping]]] = ..., saves: _Optional[bytes] = ..., loads: _Optional[bytes] = ..., copies: _Optional[bytes] = ...) -> None: ...

class StepChunk(_message.Message):
    __slots__ = ("session_id", "slot", "start", "tokens", "block_table")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TABLE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    slot: int
    start: int
    tokens: bytes
    block_table: bytes
    def __init__(self, session_id: _Optional[str] = ..., slot: _Optional[int] = ..., start: _Optional[int] = ..., tokens: _Optional[bytes] = ..., block_table: _Optional[bytes] = ...) -> None: ...

class StepSample(_message.Message):
    __slots__ = ("session_id", "slot", "params", "seed", "position", "history", "prompt_tokens", "mask")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    slot: int
    params: SampleParams
    seed: int
    position: int
    history: bytes
    prompt_tokens: int
    mask: bytes
    def __init__(self, session_id: _Optional[str] = ..., slot: _Optional[int] = ..., params: _Optional[_Union[SampleParams, _Mapping]] = ..., seed: _Optional[int] = ..., position: _Optional[int] = ..., history: _Optional[bytes] = ..., prompt_tokens: _Optional[int] = ..., mask: _Optional[bytes] = ...) -> None: ...

class SampleParams(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logprobs")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logprobs: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logprobs: _Optional[int] = ...) -> None: ...

class Gather(_message.Message):
    __slots__ = ("key", "blocks", "attempt")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    key: int
    blocks: bytes
    attempt: int
    def __init__(self, key: _Optional[int] = ..., blocks: _Optional[bytes] = ..., attempt: _Optional[int] = ...) -> None: ...

class Scatter(_message.Message):
    __slots__ = ("key", "blocks")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    key: int
    blocks: bytes
    def __init__(self, key: _Optional[int] = ..., blocks: _Optional[bytes] = ...) -> None: ...

class EngineReply(_message.Message):
    __slots__ = ("owned", "done", "failed")
    OWNED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    owned: Owned
    done: StepDone
    failed: StepFailed
    def __init__(self, owned: _Optional[_Union[Owned, _Mapping]] = ..., done: _Optional[_Union[StepDone, _Mapping]] = ..., failed: _Optional[_Union[StepFailed, _Mapping]] = ...) -> None: ...

class Owned(_message.Message):
    __slots__ = ("owner",)
    OWNER_FIELD_NUMBER: _ClassVar[int]
    owner: int
    def __init__(self, owner: _Optional[int] = ...) -> None: ...

class StepDone(_message.Message):
    __slots__ = ("step_id", "tokens", "compute_s", "save_s", "load_s")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
    SAVE_S_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    tokens: _containers.RepeatedCompositeFieldContainer[SampledTokenReply]
    compute_s: float
    save_s: float
    load_s: float
    def __init__(self, step_id: _Optional[int] = ..., tokens: _Optional[_Iterable[_Union[SampledTokenReply, _Mapping]]] = ..., compute_s: _Optional[float] = ..., save_s: _Optional[float] = ..., load_s: _Optional[float] = ...) -> None: ...

class SampledTokenReply(_message.Message):
    __slots__ = ("token_id", "logprob", "top_ids", "top_logprobs")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    logprob: float
    top_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, token_id: _Optional[int] = ..., logprob: _Optional[float] = ..., top_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class StepFailed(_message.Message):
    __slots__ = ("attempt", "kv_lost", "message")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    KV_LOST_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    kv_lost: bool
    message: str
    def __init__(self, attempt: _Optional[int] = ..., kv_lost: bool = ..., message: _Optional[str] = ...) -> None: ...

class PagePart(_message.Message):
    __slots__ = ("owner", "key", "shape", "dtype", "content", "crc32")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    owner: int
    key: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    content: bytes
    crc32: int
    def __init__(self, owner: _Optional[int] = ..., key: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., content: _Optional[bytes] = ..., crc32: _Optional[int] = ...) -> None: ...

class PutPagesReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPagesRequest(_message.Message):
    __slots__ = ("owner", "key")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    owner: int
    key: int
    def __init__(self, owner: _Optional[int] = ..., key: _Optional[int] = ...) -> None: ...

class PageOffer(_message.Message):
    __slots__ = ("address", "key", "pieces", "shape", "dtype")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    address: str
    key: int
    pieces: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    def __init__(self, address: _Optional[str] = ..., key: _Optional[int] = ..., pieces: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ...) -> None: ...

class PullPagesRequest(_message.Message):
    __slots__ = ("owner", "key", "offer")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    owner: int
    key: int
    offer: PageOffer
    def __init__(self, owner: _Optional[int] = ..., key: _Optional[int] = ..., offer: _Optional[_Union[PageOffer, _Mapping]] = ...) -> None: ...
