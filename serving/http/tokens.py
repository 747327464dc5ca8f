"""`POST /tokenize` and `POST /detokenize`."""

from fastapi import APIRouter

from s2l_jax.core.errors import InvalidArgument
from serving.http.backend import Backend
from serving.http.chat import render
from serving.http.logprobs import token_text
from serving.http.requests import DetokenizeRequest, TokenizeRequest
from serving.http.responses import Detokenized, Tokenized


def token_routes(backend: Backend) -> APIRouter:
    """The routes of the tokenizer; they run in the pool."""
    router = APIRouter(tags=["tokens"])
    tokenizer = backend.tokenizer

    @router.post("/tokenize", response_model_exclude_none=True)
    async def tokenize(body: TokenizeRequest) -> Tokenized:
        """The token ids that a text or a conversation becomes."""
        backend.check_model(body.model)
        return await backend.in_pool(lambda: _tokenize(backend, body))

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Detokenized:
        """The text of token ids, special tokens included."""
        backend.check_model(body.model)
        for position, token_id in enumerate(body.tokens):
            if not 0 <= token_id < tokenizer.vocab_size:
                raise InvalidArgument(
                    f"token id {token_id} at position {position} is not in the vocabulary: ids are 0 to "
                    f"{tokenizer.vocab_size - 1}"
                )
        return await backend.in_pool(lambda: Detokenized(prompt=tokenizer.decode(body.tokens, skip_special=False)))

    return router


def _tokenize(backend: Backend, body: TokenizeRequest) -> Tokenized:
    tokenizer = backend.tokenizer
    if body.messages is not None:
        text = render(backend, body.messages, add_generation_prompt=body.add_generation_prompt)
        ids = tokenizer.encode(text).tolist()
    else:
        ids = tokenizer.encode(body.prompt or "", add_bos=tokenizer.adds_bos and body.add_special_tokens).tolist()
    strings = None
    if body.return_token_strs:
        strings = [token_text(tokenizer.token_bytes(token_id, skip_special=False)) for token_id in ids]
    return Tokenized(count=len(ids), max_model_len=backend.model.max_model_len, tokens=ids, token_strs=strings)
