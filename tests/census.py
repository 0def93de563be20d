"""Counts what makes a house hard to live in; ``python tests/census.py [ROOT]`` prints the table, test_house holds the goals."""

import ast
import collections
import io
import pathlib
import re
import sys
import tokenize

FOLDERS = {"where", "data_dir", "manual_dir"}
"""Names of parameters that say where data lies."""
DIRECTIVE = re.compile(r"#\s*(type:|noqa|pyright:|fmt:|!)")
"""Comments that speak to tools."""
BENCHMARK = {"benchmark", "cases", "sides", "suites", "timing", "peers"}
"""The benchmark's folder, and its files before it had one."""


def sources(root, *packages):
    """Path -> parsed file of every file below some packages."""
    paths = (path for package in packages for path in sorted((root / package).rglob("*.py")))
    return {path.relative_to(root): ast.parse(path.read_text()) for path in paths}


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def branches_on_the_target(files):
    """Comparisons (== != in), isinstance and match that ask which target it is, outside the targets' own files."""
    found = []
    for path, tree in files.items():
        # A column of a data set, and the adversary that a defence calls so, may be named image too.
        if path.parts[1] in ("targets", "defenses", "data"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                parts = [node.left, *node.comparators]
                values = {part.value for part in ast.walk(ast.Tuple(parts)) if isinstance(part, ast.Constant)}
                asked = bool(values & {"image", "attribute"}) and not isinstance(
                    node.left, ast.Attribute | ast.Constant
                )
                # A key of a mapping is no question to a target, a word's field is none either.
                asked |= any(isinstance(part, ast.Attribute) and part.attr == "target" for part in parts) and bool(
                    values
                )
                named = {part.id for part in parts if isinstance(part, ast.Name)}
                asked |= bool(named & {"Image", "Attribute"})
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                named = {
                    part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "")
                    for part in ast.walk(node.args[1])
                }
                asked = bool(named & {"Image", "Attribute", "Target"})
            elif isinstance(node, ast.Match):
                asked = "target" in ast.dump(node.subject)
            else:
                continue
            if asked:
                found.append(f"{path}:{node.lineno}")
    return found


def takes_folders(files):
    """Functions with a parameter that says where data lies."""
    return [
        f"{path}:{function.name}"
        for path, tree in files.items()
        for function in functions(tree)
        if FOLDERS & {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    ]


def private(files):
    """Private functions and methods, and those of them that their own file names once: the reader jumps for nothing."""
    every, once = [], []
    for path, tree in files.items():
        named = collections.Counter(
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Name | ast.Attribute)
        )
        for function in functions(tree):
            # A name between underscores belongs to a protocol: somebody else calls it.
            if function.name.startswith("_") and not function.name.endswith("_"):
                every.append(f"{path}:{function.name}")
                if named[function.name] <= 1:
                    once.append(every[-1])
    return every, once


def comment_share(root, files):
    """Comment lines for readers, and lines in all."""
    comments = lines = 0
    for path in files:
        text = (root / path).read_text()
        lines += text.count("\n")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments += sum(token.type == tokenize.COMMENT and not DIRECTIVE.match(token.string) for token in tokens)
    return comments, lines


def lengths(files):
    """Lines of every function without its docstring."""
    found = []
    for tree in files.values():
        for function in functions(tree):
            doc = ast.get_docstring(function, clean=False)
            found.append(function.end_lineno - function.lineno + 1 - (doc.count("\n") + 1 if doc else 0))
    return sorted(found)


def parameters_of_train(files):
    """Names of the parameters of training/loop.py: train."""
    tree = files[pathlib.Path("ani_jax/training/loop.py")]
    (train,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    names = [argument.arg for argument in (*train.args.args, *train.args.kwonlyargs)]
    return [*names, *(f"*{rest.arg}" for rest in (train.args.vararg, train.args.kwarg) if rest)]


def census(root):
    """Everything that is counted, by name."""
    library, commands = sources(root, "ani_jax"), sources(root, "experiments")
    plain = {path: tree for path, tree in commands.items() if not BENCHMARK & {path.stem, *path.parts[1:-1]}}
    every, once = private(library)
    comments, lines = comment_share(root, library)
    sizes = lengths({**library, **commands})
    return {
        "branches on the target": len(branches_on_the_target({**library, **plain})),
        "parameters of train": len(parameters_of_train(library)),
        "functions that take data folders": len(takes_folders({**library, **plain})),
        "lines of experiments outside the benchmark": comment_share(root, plain)[1],
        "private functions of the library": len(every),
        "of these named once": len(once),
        "comment share of the library": round(comments / lines, 4),
        "lines of the library": lines,
        "nine in ten functions are under": sizes[9 * len(sizes) // 10] + 1,
        "WORKSPACE.md, bytes": len((root / "WORKSPACE.md").read_bytes()),
    }


if __name__ == "__main__":
    for name, value in census(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")).items():
        print(f"{value:>8}  {name}")
