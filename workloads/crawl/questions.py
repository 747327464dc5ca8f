"""Questions about Python's documentation; each is answered by a passage that the crawl finds."""

PYTHON_QUESTIONS: tuple[str, ...] = (
    "What is a virtual environment used for?",
    "What does functools.lru_cache do?",
    "What is the global interpreter lock?",
    "What is a lambda expression?",
    "How do I run a blocking function in a separate thread with asyncio.to_thread?",
    "What is a list comprehension?",
    "What is garbage collection?",
    "What is a docstring?",
    "What does the logging module do?",
    "What is a context manager?",
    "What is a named tuple?",
    "Why are there separate tuple and list data types?",
    "What is a metaclass?",
    "What is a coroutine?",
)
