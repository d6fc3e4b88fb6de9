import subprocess
import sys

SPEAK = """
import os, sys, threading, warnings
from cxr_data.images.silence import quiet_libraries

def library(text):
    os.write(2, text.encode() + b"\\n")

def inner(number):
    with quiet_libraries():
        library(f"library {number}")
        print(f"python {number}", file=sys.stderr)

before = sys.stderr
library("before")
with quiet_libraries():
    library("hidden")
    print("heard", file=sys.stderr)
    warnings.warn("warned")
    threads = [threading.Thread(target=inner, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
assert sys.stderr is before
library("after")
print("end", file=sys.stderr)
raise ValueError("and tracebacks")
"""


def test_libraries_are_not_heard_and_python_is() -> None:
    done = subprocess.run([sys.executable, "-c", SPEAK], capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert {"before", "heard", "after", "end", "ValueError: and tracebacks"} <= set(lines)
    assert sorted(line for line in lines if line.startswith("python ")) == [f"python {number}" for number in range(8)]
    assert "warned" in done.stderr
    assert "hidden" not in done.stderr
    assert "library" not in done.stderr.replace("quiet_libraries", "")


def test_a_process_without_standard_error_decodes_all_the_same() -> None:
    code = "import os; os.close(2)\nfrom cxr_data.images.silence import quiet_libraries\n"
    code += "with quiet_libraries():\n    print('decoded')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "decoded\n")
