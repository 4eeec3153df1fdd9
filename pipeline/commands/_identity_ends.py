"""How consent ends: `understudy identity revoke` and `prune`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.commands._acts import Add, settings_of

if TYPE_CHECKING:
    from pipeline.commands._carriers import Carrier
    from pipeline.consent.registry import Registry
    from pipeline.provenance.audit import Audit


def add_arguments(add: Add) -> None:
    """The two acts, and their arguments."""
    more = "Nothing is made with the face from then on. It tells which models and results carry it, by the audit."
    revoked = add("revoke", "record that consent has been taken back, for good", _revoke, more)
    revoked.add_argument("id", metavar="ID", help="whose; `understudy identity show` tells it of a face set or a model")
    revoked.add_argument("--because", metavar="TEXT", required=True, help="why, in a line; it is not in the audit")
    revoked.add_argument(
        "--delete", action="store_true", help="removes what carries it, where that is what the audit says it is"
    )
    revoked.add_argument("--yes", action="store_true", help="removes without asking")
    revoked.add_argument(
        "--despite-faults", action="store_true", help="with --delete: even if the audit is not what was written"
    )
    revoked.add_argument("--unknown", action="store_true", help="even if nothing here knows this id")
    more = "Those are meant that were added or signed here; consent.retention_days says how long they are kept."
    pruned = add("prune", "list face sets whose consent has ended some time ago, or remove them", _prune, more)
    pruned.add_argument("--yes", action="store_true", help="removes them")


def _revoke(args: argparse.Namespace) -> int:
    from pipeline.commands import _carriers
    from pipeline.commands._identities import now
    from pipeline.errors import ConfigError

    if args.delete and not args.yes and not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here whether files are to be removed; say --yes")
    audit, registry = _kept(args)
    newest = _newest(args, audit, registry)
    before = registry.revocation(args.id)
    try:
        registry.revoke(args.id, args.because, now())
    except ValueError as error:
        raise ConfigError(f"--because: {error}") from error
    if before is None:
        audit.append("identity-revoked", {"identities": [[args.id, newest]]})
    found = _carriers.carriers(audit, args.id)
    states = {carrier: carrier.state() for carrier in found}
    there = [carrier for carrier, state in states.items() if state == _carriers.THERE]
    if not args.json:
        _tell(args.id, states, registry)
    gone = _delete(args, audit, there) if args.delete and there and _agreed(args, len(there)) else []
    if args.json:
        listed = [{"what": each.what, "path": each.path, "state": state} for each, state in states.items()]
        print(json.dumps({"id": args.id, "carriers": listed, "removed": gone}, indent=2))
    elif gone:
        print(f"{len(gone)} files and folders are removed")
    elif there and not args.delete and not args.quiet:
        print("see --delete to remove what is there; published copies are yours to call back")
    return 0


def _newest(args: argparse.Namespace, audit: Audit, registry: Registry) -> str:
    """The digest of the newest version, empty where that is not known. Raises ConfigError: nobody knows this id."""
    from pipeline.consent.identity import check_id
    from pipeline.errors import ConfigError

    try:
        check_id(args.id)
    except ValueError as error:
        raise ConfigError(f"this is no id of an identity: {error}") from error
    known = registry.newest(args.id)
    if known is None and not args.unknown and next(audit.rows(identity=args.id), None) is None:
        raise ConfigError(
            f"nothing is known of {args.id} here, so nothing was revoked; is it right? then say --unknown"
        )
    return known.digest if known is not None else ""


def _tell(id: str, states: dict[Carrier, str], registry: Registry) -> None:
    from pipeline.logs import printable
    from pipeline.wording import table

    print(f"{id} is revoked: nothing is made with this face from now on")
    if states:
        rows = [(carrier.what, state, printable(carrier.path)) for carrier, state in states.items()]
        print("\n".join(table([("what", "state", "where"), *rows], 1 << 20, 2)))
    else:
        print("no model and no result is known to carry it")
    for place in registry.places(id):
        print(f"its faces are in {printable(str(place))}; `understudy identity prune` removes them in time")


def _agreed(args: argparse.Namespace, count: int) -> bool:
    if args.yes:
        return True
    print(f"remove these {count} that are there, for good? [y/N] ", end="", flush=True, file=sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _delete(args: argparse.Namespace, audit: Audit, there: Sequence[Carrier]) -> list[str]:
    """Removes them, and writes each down. Raises TableError where the audit is not what was written, unless told to."""
    from pipeline.commands import _carriers
    from pipeline.errors import TableError

    if not args.despite_faults and audit.verify().faults:
        raise TableError(
            f"{args.id} is revoked, but nothing is removed: the audit is not what was written, so what it names may be "
            "anybody's; see `understudy audit verify` and the list, then say --despite-faults"
        )
    gone = []
    for carrier in there:
        if carrier.state() != _carriers.THERE:  # people take their time to answer
            continue
        gone += _carriers.removed(carrier)
        pairs = [list(pair) for pair in carrier.identities]
        facts = {"was": carrier.what, "path": carrier.path, "digests": sorted(carrier.digests), "identities": pairs}
        audit.append("deleted", {**facts, "because": f"{args.id} was revoked"})
    return gone


def _prune(args: argparse.Namespace) -> int:
    from pipeline.commands import _carriers
    from pipeline.commands._identities import now
    from pipeline.consent.identity import written
    from pipeline.logs import printable

    days = settings_of(args).consent.retention_days
    audit, registry = _kept(args)
    found = _carriers.ended(registry, days, now())
    for each in found if args.yes else ():
        _carriers.face_set_removed(each.folder)
        registry.forget(each.id, each.folder)
        audit.append("deleted", {"was": "face set", "identities": [[each.id, each.digest]], "because": "consent ended"})
    if args.json:
        print(json.dumps({"removed": args.yes, "face_sets": [each.as_json() for each in found]}, indent=2))
        return 0
    for each in found:
        print(f"{printable(str(each.folder))}: consent of {each.id} ended {written(each.ended)}")
    if not found:
        print(f"no face set is known whose consent ended more than {days} days ago")
    elif not args.yes:
        print("--yes removes them")
    else:
        left = [each for each in found if each.folder.exists()]
        print(f"{len(found)} face sets are removed" + f"; {len(left)} folders hold other files, too" * bool(left))
    return 0


def _kept(args: argparse.Namespace) -> tuple[Audit, Registry]:
    from pipeline import app
    from pipeline.consent.registry import Registry
    from pipeline.provenance.audit import Audit

    home = app.home(settings_of(args))
    return Audit(home), Registry(home)
