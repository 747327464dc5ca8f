"""Questions about Python's documentation that its pages answer and a small model can repeat the answer to."""

PYTHON_QUESTIONS: tuple[str, ...] = (
    "What is a decorator?",
    "What is a virtual environment used for?",
    "What does the json module do?",
    "What does functools.lru_cache do?",
    "What is a lambda expression?",
    "How do I run a blocking function in a separate thread with asyncio.to_thread?",
    "What is a list comprehension?",
    "What is pip?",
    "What does heapq.heappushpop do?",
    "What is a docstring?",
    "What does the logging module do?",
    "What does shutil.rmtree do?",
    "What does collections.Counter do?",
    "What is duck typing?",
)
