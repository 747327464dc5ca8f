"""Questions about Python's documentation; each is answered by a passage that the crawl finds."""

PYTHON_QUESTIONS: tuple[str, ...] = (
    "What does functools.lru_cache do?",
    "What does itertools.repeat do?",
    "How do I run a blocking function in a separate thread with asyncio.to_thread?",
    "What does heapq.heappushpop do?",
    "What does shutil.rmtree delete?",
    "What does os.path.join do with its arguments?",
    "What does collections.Counter count?",
    "What is a context manager?",
    "What does the zip() function return when the iterables have different lengths?",
    "What does contextlib.suppress do?",
    "What does asyncio.gather return?",
    "What does random.shuffle do to a list?",
    "Which exception does dict.pop raise when the key is missing?",
    "What does json.dumps return?",
    "What is the global interpreter lock?",
    "What does the enumerate() function return?",
)
