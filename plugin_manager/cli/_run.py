"""`pluginctl run`: a plugin's module or script as a command, everything verified."""

from __future__ import annotations

import json
import posixpath
import runpy
import sys
from contextlib import suppress
from importlib import machinery

import click

from plugin_manager._values import error_json, exit_code
from plugin_manager.cli._opening import open_manager
from plugin_manager.cli._options import json_option, name_argument
from plugin_manager.cli._output import Session
from plugin_manager.errors import NotFoundError, PluginManagerError
from plugin_manager.loader import LoadedPlugin

__all__ = ["COMMANDS"]

_SCRIPTS = "console_scripts"


# Nothing behind the plugin's name is an option of ours.
@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_argument
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[MODULE] [ARGUMENT]...")
@json_option
def run(name: str, arguments: tuple[str, ...], as_json: bool) -> None:
    """Run a plugin's MODULE as 'python -m' would, with ARGUMENTs in sys.argv.

    Without MODULE, or where an option or '--' comes first, its only script is run, or else its
    only package with a __main__.

    Standard output is the plugin's: with --json, which goes before NAME, standard error gets a line
    of JSON that names the release, and another where something is refused.
    """
    session = Session(as_json=as_json)
    try:
        with open_manager(session) as manager:
            plugin = manager.load(name)
            if session.as_json:
                _tell({"plugin": str(plugin.name), "version": str(plugin.release.version)})
            # Not unloaded afterwards: what the module registered with atexit may import yet.
            _run(plugin, arguments)
    except PluginManagerError as error:
        if not session.as_json:
            raise
        _tell({"error": error_json(error)})
        sys.exit(exit_code(error))


def _tell(value: object) -> None:
    click.echo(json.dumps(value, default=str), err=True)


def _run(plugin: LoadedPlugin, arguments: tuple[str, ...]) -> None:
    module, rest = "", arguments
    if arguments and not arguments[0].startswith("-"):
        module, rest = arguments[0], arguments[1:]
        _require_own(plugin, module)
    elif arguments and arguments[0] == "--":
        rest = arguments[1:]
    try:
        if module:
            _run_module(module, rest)
        else:
            _run_default(plugin, rest)
    except PluginManagerError:
        raise  # refused while it ran: the documented exit codes
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def _run_module(module: str, arguments: tuple[str, ...]) -> None:
    sys.argv = [module, *arguments]  # runpy puts the file's path in the place of the name
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _run_default(plugin: LoadedPlugin, arguments: tuple[str, ...]) -> None:
    scripts = plugin.entry_points_in(_SCRIPTS)
    if len(scripts) == 1:
        sys.argv = [scripts[0].name, *arguments]
        sys.exit(scripts[0].load()())
    packages = _own_packages(plugin)
    if len(packages) != 1:
        named = ", ".join([*(script.value for script in scripts), *packages])
        raise NotFoundError(
            f"{plugin.release} has "
            + (f"several programs: {named}" if named else "neither a script nor a __main__"),
            remedy=f"Name a module: 'pluginctl run {plugin.name} MODULE'.",
            plugin=str(plugin.name),
        )
    _run_module(packages[0], arguments)


def _require_own(plugin: LoadedPlugin, module: str) -> None:
    """Raise NotFoundError for a module that is not the release's: it would not be verified."""
    above = module
    while above and above not in plugin.shared:
        above = above.rpartition(".")[0]
    if above:
        what = f"uses {above!r} from {plugin.shared[above]}, not its own copy"
    elif {module, f"{module}.__main__"} & _modules(plugin).keys():
        return
    else:
        what = f"has no module {module!r}"
    raise NotFoundError(
        f"{plugin.release} {what}",
        remedy="Name a module of the plugin, or put '--' before arguments.",
        plugin=str(plugin.name),
        module=module,
    )


def _own_packages(plugin: LoadedPlugin) -> list[str]:
    """The release's packages with a `__main__`, those of vendored distributions aside."""
    from importlib.metadata import PackageNotFoundError, files  # noqa: PLC0415 - slow

    vendored = set()
    for distribution in plugin.manifest.python.vendored:
        with suppress(PackageNotFoundError):
            vendored |= {str(file) for file in files(distribution) or ()}
    return [
        module.removesuffix(".__main__")
        for module, file in _modules(plugin).items()
        if module.endswith(".__main__") and file not in vendored
    ]


def _modules(plugin: LoadedPlugin) -> dict[str, str]:
    """The release's modules by dotted name, with their files below the import root.

    From the signed list of files: nothing is imported.
    """
    root = plugin.manifest.python.root
    found = {}
    for path in plugin.files:
        below = posixpath.relpath(path, root) if root else path
        suffix = next((s for s in machinery.all_suffixes() if below.endswith(s)), "")
        parts = below.removesuffix(suffix).split("/")
        if suffix and all(part.isidentifier() for part in parts) and "__pycache__" not in parts:
            found[".".join(parts).removesuffix(".__init__")] = below
    return found


COMMANDS = [run]
