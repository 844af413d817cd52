"""What each command's help ends with."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["EXAMPLES"]

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "install": (
        "install acme/maps",
        "install 'acme/maps>=2,<3' acme/model@1.4",
        "install acme/maps --dry-run",
        "install acme/model --background",
    ),
    "update": ("update", "update acme/maps"),
    "upgrade": ("upgrade", "upgrade acme/maps", "upgrade --dry-run --json"),
    "uninstall": ("uninstall acme/maps",),
    "rollback": ("rollback acme/maps", "rollback acme/maps --to 1.2", "rollback --generation 7"),
    "hold": ("hold acme/maps",),
    "unhold": ("unhold acme/maps",),
    "confirm": ("confirm acme/maps",),
    "list": ("list", "list --json"),
    "show": ("show acme/maps", "show acme/maps --manifest --json"),
    "path": ("path acme/maps", "--quiet path acme/maps"),
    "history": ("history", "history 7"),
    "search": ("search maps", "search offline tiles --json"),
    "info": ("info acme/maps",),
    "outdated": ("outdated", "outdated --update --json"),
    "jobs": ("jobs", "jobs --json"),
    "agent": ("agent start", "agent status --json", "agent install-service --print"),
    "watch": ("watch", "watch 4f72bbd5"),
    "pause": ("pause 4f72bbd5", "pause"),
    "resume": ("resume 4f72bbd5", "resume"),
    "cancel": ("cancel 4f72bbd5", "cancel --all --remove"),
    "storage": ("storage", "storage --json"),
    "pin": ("pin acme/maps",),
    "unpin": ("unpin acme/maps",),
    "evict": ("evict 2GB --dry-run", "evict 500MB"),
    "delete": ("delete acme/maps", "delete acme/maps 1.2"),
    "gc": ("gc --dry-run", "gc --unfinished"),
    "doctor": ("doctor", "doctor --offline --json"),
    "verify": ("verify", "verify acme/maps", "verify --all"),
    "repair": ("repair --dry-run", "repair acme/maps"),
    "config": (
        "config",
        "config set repository https://plugins.example.org/",
        "config unset max_store",
        "config path",
    ),
    "config set": ("config set max_store 20GB", "config set quiet_hours 08:00-18:00"),
    "config unset": ("config unset max_store",),
    "config path": ("config path",),
    "completion": (
        "completion bash >> ~/.bashrc",
        "completion zsh >> ~/.zshrc",
        "completion fish > ~/.config/fish/completions/pluginctl.fish",
    ),
    "repo init": ("repo init repository",),
    "repo add-publisher": ("repo add-publisher acme --directory repository",),
    "repo publish": ("repo publish maps-1.0 --directory repository",),
    "repo refresh": ("repo refresh --directory repository",),
    "repo status": ("repo status --directory repository",),
    "repo serve": ("repo serve repository --port 8765",),
    "repo withdraw": (
        "repo withdraw acme/maps==1.0 --block --reason 'leaks tokens' --directory repository",
    ),
}
