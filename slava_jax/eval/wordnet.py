"""Installs WordNet 3.0 where NLTK finds it, without root; the command is `slava wordnet`.

METEOR counts synonyms as matches and reads them from WordNet through NLTK, which looks only in
its own data folders. One of them is `<sys.prefix>/nltk_data`, so a virtual environment has its own
copy. Two sources are tried: NLTK's downloader, then Debian's packages of the same WordNet 3.0.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from slava_jax.errors import UserError

COMMAND = "slava wordnet"

# Everything NLTK's WordNet reader may open.
_FILES = (
    "lexnames", "cntlist.rev", "index.sense",
    "index.adj", "index.adv", "index.noun", "index.verb",
    "data.adj", "data.adv", "data.noun", "data.verb",
    "adj.exc", "adv.exc", "noun.exc", "verb.exc",
)  # fmt: skip
_DEBIAN_PACKAGES = ("wordnet-base", "wordnet-sense-index")

# The lexicographer files in numerical order (lexnames(5WN)); Debian omits the file `lexnames`.
_LEXNAMES = """
    adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body
    noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location
    noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process
    noun.quantity noun.relation noun.shape noun.state noun.substance noun.time verb.body verb.change
    verb.cognition verb.communication verb.competition verb.consumption verb.contact verb.creation
    verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative verb.weather
    adj.ppl
"""
_SYNTACTIC_CATEGORY = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}

# Table 29, second row: 0.504 with WordNet 3.0, 0.398 without synonyms.
_GOLDEN_REFERENCE = (
    "The image likely shows a material defect known as inclusion, which can create weak points and "
    "reduce the uniformity and strength of the material."
)
_GOLDEN_CANDIDATE = (
    "The photo probably displays an imperfection referred to as an inclusion, which can make "
    "fragile spots and decrease the consistency and robustness of the material."
)
_GOLDEN_METEOR = 0.504

# The check runs in this package's parent folder, so that it imports this copy.
_ABOVE = Path(__file__).resolve().parents[2]
_CHECK = """
import sys
from slava_jax.eval import wordnet
try:
    wordnet.check(*sys.argv[1:])
except wordnet.WordNetError as error:
    sys.exit(str(error))
"""


class WordNetError(UserError, RuntimeError):
    """WordNet is missing, unreadable or cannot be installed; the message says what to do."""


def lexnames_text() -> str:
    """The 45 lines of WordNet 3.0's file `lexnames`: number, name, syntactic category."""
    lines = (
        f"{number:02d}\t{name}\t{_SYNTACTIC_CATEGORY[name.split('.')[0]]}\n"
        for number, name in enumerate(_LEXNAMES.split())
    )
    return "".join(lines)


def problem(root: Path | None = None, timeout: float = 120.0) -> str | None:
    """Why NLTK cannot score METEOR with the WordNet below `root` (None: NLTK's own folders).

    None if METEOR gives the golden score. The check runs in a fresh process, free of what this one
    has cached.
    """
    command = [sys.executable, "-c", _CHECK, *([str(root.resolve())] if root else [])]
    try:
        done = subprocess.run(command, cwd=_ABOVE, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"checking WordNet took longer than {timeout:.0f} s"
    return None if done.returncode == 0 else _last_lines(done.stderr or done.stdout)


def install(prefix: Path | None = None, download_timeout: float = 60.0) -> str:
    """Makes WordNet available to NLTK; returns one sentence saying what was done.

    Does nothing if METEOR already gives its golden value. `prefix` defaults to `sys.prefix`; the
    files go to `<prefix>/nltk_data/corpora/wordnet`, all or none.

    Raises WordNetError listing every source tried and why it failed.
    """
    data = Path(prefix or sys.prefix) / "nltk_data"
    if problem(data if prefix else None) is None:
        return "WordNet is already installed and METEOR gives its golden value."
    try:
        (data / "corpora").mkdir(parents=True, exist_ok=True)
        workspace = tempfile.mkdtemp(prefix=".wordnet-", dir=data)
    except OSError as error:
        raise WordNetError(f"cannot write to {data}: {error}") from error
    failures = []
    try:
        for name, fetch in (
            ("NLTK's own downloader", _fetch_with_nltk),
            (f"Debian's packages {' and '.join(_DEBIAN_PACKAGES)}", _fetch_from_debian),
        ):
            failure = _try(fetch, Path(workspace) / fetch.__name__, download_timeout)
            if failure is None:
                failure = _put_in_place(Path(workspace) / fetch.__name__, data)
            if failure is None:
                failure = problem(data if prefix else None)
            if failure is None:
                return f"WordNet 3.0 installed in {data / 'corpora' / 'wordnet'} from {name}."
            failures.append(f"  {name}: {failure}")
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    raise WordNetError(
        "WordNet cannot be installed, so METEOR cannot be computed. Tried:\n"
        + "\n".join(failures)
        + f"\nTo install it by hand, put the files of WordNet 3.0 ({', '.join(_FILES)}) into "
        f"{data / 'corpora' / 'wordnet'}, readable but not writable by others, and run {COMMAND} "
        "again to check them."
    )


def _try(fetch: Callable[[Path, float], None], root: Path, timeout: float) -> str | None:
    """Fetches WordNet into `<root>/corpora/wordnet` and checks it; returns why that failed."""
    try:
        root.mkdir()
        fetch(root, timeout)
        missing = [f for f in _FILES if not (root / "corpora" / "wordnet" / f).is_file()]
        if missing:
            return f"the download lacks {', '.join(missing)}"
        _make_private(root)
        return problem(root)
    except (OSError, subprocess.SubprocessError, WordNetError) as error:
        return str(error) or type(error).__name__


def _fetch_with_nltk(root: Path, timeout: float) -> None:
    code = (
        "import sys, nltk\n"
        "nltk.download('wordnet', download_dir=sys.argv[1], quiet=True, raise_on_error=True)\n"
    )
    _run([sys.executable, "-c", code, str(root)], root, timeout)
    archive = root / "corpora" / "wordnet.zip"
    if archive.is_file() and not (root / "corpora" / "wordnet").is_dir():
        shutil.unpack_archive(archive, root / "corpora")


def _fetch_from_debian(root: Path, timeout: float) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise WordNetError(f"{tool} is not installed")
    packages = root / "packages"
    packages.mkdir()
    download = ["download", *_DEBIAN_PACKAGES]
    try:
        _run(["apt-get", *_APT_OPTIONS, *download], packages, timeout)
    except (WordNetError, subprocess.SubprocessError):
        # The machine's package lists are empty, old or unreadable: fetch our own.
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (root / folder).mkdir(parents=True)
        own = [
            *_APT_OPTIONS,
            "-o", f"Dir::State={root / 'state'}",
            "-o", f"Dir::State::lists={root / 'state' / 'lists'}",
            "-o", f"Dir::Cache={root / 'cache'}",
            "-o", "Dir::State::status=/var/lib/dpkg/status",
        ]  # fmt: skip
        _run(["apt-get", *own, "update"], packages, 3 * timeout)
        _run(["apt-get", *own, *download], packages, timeout)
    for package in sorted(packages.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root / "unpacked")], packages, timeout)
    unpacked = root / "unpacked" / "usr" / "share"
    target = root / "corpora" / "wordnet"
    target.mkdir(parents=True)
    for name in _FILES:
        if (unpacked / "wordnet" / name).is_file():
            shutil.copy(unpacked / "wordnet" / name, target / name)
    licence = unpacked / "doc" / "wordnet-base" / "copyright"
    if licence.is_file():
        shutil.copy(licence, target / "LICENSE")
    (target / "lexnames").write_text(lexnames_text())


# Without the last option, apt run as root downloads as another user, who may not write here.
_APT_OPTIONS = ("-q", "-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User=root")


def _run(command: list[str], cwd: Path, timeout: float) -> None:
    done = subprocess.run(
        command, cwd=cwd, timeout=timeout, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        said = _last_lines(done.stderr or done.stdout)
        raise WordNetError(f"{Path(command[0]).name} exited with {done.returncode}: {said}")


def _last_lines(text: str, count: int = 3) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return " / ".join(lines[-count:]) or "no output"


def _make_private(root: Path) -> None:
    """Removes group and other write permission: NLTK refuses data others could have written."""
    os.chmod(root, 0o755)
    for folder, _, files in os.walk(root / "corpora"):
        os.chmod(folder, 0o755)
        for name in files:
            os.chmod(Path(folder) / name, 0o644)


def _put_in_place(root: Path, data: Path) -> str | None:
    target = data / "corpora" / "wordnet"
    try:
        for folder in (data, data / "corpora"):
            os.chmod(folder, 0o755)
        if target.exists():
            # It failed the check. A non-empty folder cannot be overwritten, so move it away.
            os.replace(target, root / "what_was_there")
        os.replace(root / "corpora" / "wordnet", target)
    except OSError as error:
        return f"downloaded, but cannot be moved into place: {error}"
    return None


def check(root: str | None = None) -> None:
    """Raises WordNetError unless NLTK reads WordNet (only below `root` if given) and METEOR fits.

    NLTK caches what it read, and `root` stays set: call it once per process.
    """
    import nltk
    from nltk.corpus import wordnet
    from nltk.translate.meteor_score import single_meteor_score

    if root is not None:
        nltk.data.path[:] = [root]
    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise WordNetError(f"NLTK finds no WordNet in {', '.join(nltk.data.path)}") from error
    score = single_meteor_score(_GOLDEN_REFERENCE.split(), _GOLDEN_CANDIDATE.split())
    if abs(score - _GOLDEN_METEOR) > 6e-4:
        raise WordNetError(
            f"METEOR gives {score:.4f} where WordNet 3.0 gives {_GOLDEN_METEOR}: "
            f"the files in {wordnet.root} are damaged or from another version"
        )
