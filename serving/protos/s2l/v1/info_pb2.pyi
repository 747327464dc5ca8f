from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "max_model_len", "vocab_size", "bos_token_id", "eos_token_ids", "default_max_tokens", "prompt", "server_version", "policy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    BOS_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_model_len: int
    vocab_size: int
    bos_token_id: int
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    default_max_tokens: int
    prompt: PromptPieces
    server_version: str
    policy: str
    def __init__(self, name: _Optional[str] = ..., max_model_len: _Optional[int] = ..., vocab_size: _Optional[int] = ..., bos_token_id: _Optional[int] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., default_max_tokens: _Optional[int] = ..., prompt: _Optional[_Union[PromptPieces, _Mapping]] = ..., server_version: _Optional[str] = ..., policy: _Optional[str] = ...) -> None: ...

class PromptPieces(_message.Message):
    __slots__ = ("before_context", "before_question", "after_question", "add_bos")
    BEFORE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_QUESTION_FIELD_NUMBER: _ClassVar[int]
    AFTER_QUESTION_FIELD_NUMBER: _ClassVar[int]
    ADD_BOS_FIELD_NUMBER: _ClassVar[int]
    before_context: str
    before_question: str
    after_question: str
    add_bos: bool
    def __init__(self, before_context: _Optional[str] = ..., before_question: _Optional[str] = ..., after_question: _Optional[str] = ..., add_bos: bool = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Stats(_message.Message):
    __slots__ = ("sessions", "free_blocks", "held_blocks", "total_blocks", "steps", "preemptions", "cached_blocks", "host")
    class SessionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    HELD_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    CACHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.ScalarMap[str, int]
    free_blocks: int
    held_blocks: int
    total_blocks: int
    steps: int
    preemptions: Preemptions
    cached_blocks: int
    host: HostStats
    def __init__(self, sessions: _Optional[_Mapping[str, int]] = ..., free_blocks: _Optional[int] = ..., held_blocks: _Optional[int] = ..., total_blocks: _Optional[int] = ..., steps: _Optional[int] = ..., preemptions: _Optional[_Union[Preemptions, _Mapping]] = ..., cached_blocks: _Optional[int] = ..., host: _Optional[_Union[HostStats, _Mapping]] = ...) -> None: ...

class HostStats(_message.Message):
    __slots__ = ("total", "free", "backups", "swapped")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    BACKUPS_FIELD_NUMBER: _ClassVar[int]
    SWAPPED_FIELD_NUMBER: _ClassVar[int]
    total: int
    free: int
    backups: int
    swapped: int
    def __init__(self, total: _Optional[int] = ..., free: _Optional[int] = ..., backups: _Optional[int] = ..., swapped: _Optional[int] = ...) -> None: ...

class Preemptions(_message.Message):
    __slots__ = ("swap", "recompute", "drop", "tail", "saved_blocks", "backup_blocks", "loaded_blocks", "copied_blocks")
    SWAP_FIELD_NUMBER: _ClassVar[int]
    RECOMPUTE_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    SAVED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BACKUP_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LOADED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    COPIED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    swap: int
    recompute: int
    drop: int
    tail: int
    saved_blocks: int
    backup_blocks: int
    loaded_blocks: int
    copied_blocks: int
    def __init__(self, swap: _Optional[int] = ..., recompute: _Optional[int] = ..., drop: _Optional[int] = ..., tail: _Optional[int] = ..., saved_blocks: _Optional[int] = ..., backup_blocks: _Optional[int] = ..., loaded_blocks: _Optional[int] = ..., copied_blocks: _Optional[int] = ...) -> None: ...
