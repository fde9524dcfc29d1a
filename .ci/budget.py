"""Lines of code, without blank lines, comments and docstrings, against a budget.  Raising one takes a reason in the commit."""
import ast
import io
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "npsrgan"
CORE = ("tape.py", "ops", "layers.py", "models", "losses.py", "adam.py", "trainer.py")
NOT_CORE = "assembled.py"        # in models/: networks that converted files describe
BUDGET = {"core": 900, "npsrgan/": 7965}
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}


def lines(path):
    """The number of lines of a file that hold code."""
    text = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {line for token in tokens if token.type not in LAYOUT for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code -= set(range(node.lineno, node.end_lineno + 1))
    return len(code)


if __name__ == "__main__":
    files = sorted(PACKAGE.rglob("*.py"))
    core = [path for path in files if path.relative_to(PACKAGE).parts[0] in CORE and path.name != NOT_CORE]
    counts = {"core": sum(map(lines, core)), "npsrgan/": sum(map(lines, files))}
    for name, count in counts.items():
        print(f"{name} has {count} lines of code, of at most {BUDGET[name]}")
    sys.exit(any(counts[name] > BUDGET[name] for name in counts))
