"""The program `understudy`: finds the verb, runs it, and turns what went wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from types import FrameType, ModuleType
from typing import NoReturn

from pipeline import commands, logs
from pipeline.errors import UnderstudyError

_DESCRIPTION = """\
A face-swap video pipeline: a clip goes in, the same clip with one consented person's face in place of another's
comes out, with its sound, its timing and every pixel outside the face as they were."""

_EPILOG = """\
the usual way, from two people's clips to a swapped one:
  understudy extract anna.mp4 -o faces/anna
  understudy extract bert.mp4 -o faces/bert
  understudy identity add faces/anna --self
  understudy identity add faces/bert --consented --evidence release=bert.pdf --until 2027-12-31 --contact b@example.com
  understudy train faces/anna faces/bert -o model
  understudy convert anna.mp4 -o swapped.mp4 --model model

settings: config.yaml in the current folder (or -c FILE), then --set key=value; the annotated default is config.yaml
in the project's folder. `understudy VERB --help` tells more about each verb.

exit codes: 0 done; 1 a defect or a fault of the machine; 2 a wrong argument or setting; 3 an input that cannot be used;
4 a stage failed on a clip; 5 a model that cannot be used; 6 the result could not be put in its place; 7 something is
missing on this machine (see understudy doctor); 8 the table of jobs or the audit cannot be used; 9 a GPU failed;
10 somebody has not agreed (see understudy identity); 130 and 143 stopped by SIGINT and SIGTERM; 141 the reader went
away."""


class _Terminated(BaseException):
    """SIGTERM, raised where the main thread is, so that every `with` on the way out is left properly."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines; options show their defaults where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        shown = action.default not in (None, False, "", argparse.SUPPRESS, [], ()) and action.option_strings
        return f"{text} (default: %(default)s)" if shown and "%(default)" not in text else text


def parser() -> argparse.ArgumentParser:
    """The whole command line; loads neither torch nor mediapipe."""
    top = argparse.ArgumentParser(
        "understudy", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=_Help, allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"understudy {metadata.version('understudy')}")
    verbs = top.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    shared = _shared_options()
    for name in commands.names():
        verb: ModuleType = import_module(f"{commands.__name__}.{name}")
        sub = verbs.add_parser(
            name,
            help=verb.SUMMARY,
            description=(verb.__doc__ or "").strip(),
            epilog=f"examples:\n{verb.EXAMPLES}",
            formatter_class=_Help,
            parents=[shared],
            allow_abbrev=False,
        )
        verb.add_arguments(sub)
        sub.set_defaults(run=verb.run)
    return top


def _shared_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("options of every verb")
    group.add_argument("-c", "--config", metavar="FILE", help="settings to use instead of ./config.yaml")
    group.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="overrides a setting, e.g. encode.codec=ffv1"
    )
    group.add_argument("--json", action="store_true", help="prints the result as JSON, and logs as JSON lines")
    group.add_argument("-v", "--verbose", action="store_true", help="says more, and shows the traceback of a defect")
    group.add_argument("-q", "--quiet", action="store_true", help="says nothing but errors and the result")
    return shared


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name may be no UTF-8
    # Said before torch loads: its threads shall sleep, not spin, while they wait. On cores that others use too,
    # spinning makes a training ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = parser().parse_args(argv)
    level = logging.DEBUG if args.verbose else logging.ERROR if args.quiet else logging.INFO
    logs.set_up(level, args.json, journal=logs.under_journal(os.environ, sys.stderr))
    logging.getLogger("watchdog").setLevel(logging.WARNING)
    # Both are set whatever was inherited: a shell script's background jobs are born deaf to SIGINT.
    handlers = {signal.SIGTERM: _terminate, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        return int(args.run(args))
    except UnderstudyError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _stopped(signal.SIGINT)
    except _Terminated:
        return _stopped(signal.SIGTERM)
    except BrokenPipeError:
        # Whoever read our output has gone, as with `understudy ... | head`; nothing must try to flush to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        logging.getLogger(__name__).debug("the defect:", exc_info=error)
        hint = "" if args.verbose else "; run it again with -v to see where, and report it"
        return _fail(f"a defect: {type(error).__name__}: {error}{hint}", UnderstudyError.exit_code)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _fail(message: str, code: int) -> int:
    print(f"understudy: error: {logs.printable(message)}", file=sys.stderr)
    return code


def _stopped(by: signal.Signals) -> int:
    print(f"understudy: stopped by {by.name}", file=sys.stderr)
    return 128 + by


if __name__ == "__main__":
    sys.exit(main())
