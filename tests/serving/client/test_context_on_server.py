"""A context over the wire: the answer is that of the final prompt, and the report is the server's."""

import pytest
from hypothesis import HealthCheck, given, settings

from s2l_jax.core.errors import InvalidArgument
from serving.client import AsyncClient, AsyncContext, Client, Context, Document, SamplingParams
from serving.client.context_assembly import ORDERS, Order
from tests.serving.client.context_lists import lists
from tests.serving.harness import Sizes, run, threaded_world, world

LARGE = Sizes(model_len=1024, num_blocks=2048)
GREEDY = SamplingParams(max_tokens=4)
REFINED = (["sun", "moon"], ["stars", "sun", "moon"], ["stars", "moon"])


@pytest.mark.parametrize("order", ORDERS)
def test_answers_are_those_of_the_final_prompt(order: Order) -> None:
    with threaded_world(LARGE) as one, Client(one.target, timeout_s=20) as client:
        pieces = client.model().prompt

        @given(lists)
        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        def shows(shown: list[list[Document]]) -> None:
            with client.session(GREEDY, content="gone") as session:
                context = Context(session, order=order, template=pieces)
                for documents in shown:
                    context.show(documents)
                context.finish("why?")
                prompt = context.text + pieces.tail("why?")
                assert session.result().text == one.expected(prompt, 4)
            total = context.savings
            # The server counts bytes as tokens.
            assert total.pending == 0
            assert total.saved.kept_tokens + total.saved.sent_tokens == sum(
                session.accepted[step.seq].context_tokens for step in context.steps
            )
            assert total.saved.kept_tokens >= total.kept_chars

        shows()


def test_asyncio_and_its_report() -> None:
    async def test() -> None:
        async with world(LARGE) as one, AsyncClient(one.target, timeout_s=20) as client:
            async with client.session(GREEDY) as session:
                context = AsyncContext(session, order="stable", template=(await client.model()).prompt)
                for documents in REFINED:
                    await context.show(documents)
                await context.finish("why?")
                result = await session.result()
            assert result.text == one.expected("<moon\n\nstars\n\n|why?>", 4)
            kept = [step.saved.kept_tokens for step in context.steps if step.saved is not None]
            assert kept == [0, len("<sun\n\nmoon\n\n"), len("<")]
            assert context.savings.rank_kept_tokens == len("<s") + len("<stars\n\n")

    run(test)


def test_text_that_cannot_be_sent_is_refused_and_the_session_goes_on() -> None:
    with threaded_world(LARGE) as one, Client(one.target, timeout_s=20) as client, client.session(GREEDY) as session:
        context = Context(session, template=client.model().prompt)
        with pytest.raises(InvalidArgument, match="surrogates"):
            context.show(["\ud800"])
        context.show(["fine"])
        context.finish("why?")
        assert session.result().text == one.expected("<fine\n\n|why?>", 4)
