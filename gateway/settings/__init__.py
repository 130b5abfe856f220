"""The settings: their schema, where they are read from, and what is wrong with them.

Nothing else in the gateway reads the environment or a config file.
"""

from gateway.settings.loading import (
    Loaded,
    config_path,
    load,
    ollama_host,
    setting_names,
    variable_for,
)
from gateway.settings.messages import (
    ConfigFileMissing,
    SettingsError,
    masked,
    names_a_secret,
    printable,
)
from gateway.settings.paths import SYSTEM_FOLDER, default_config_text
from gateway.settings.schema import (
    CatalogSettings,
    IntegritySettings,
    KeysSettings,
    LimitsSettings,
    ListenSettings,
    LogSettings,
    ModelRule,
    OllamaSettings,
    ProxiesSettings,
    SchedulerSettings,
    Settings,
    StateSettings,
    TimeoutsSettings,
    TrustedProxy,
    TunnelSettings,
)
from gateway.settings.types import Address, ollama_address

__all__ = [
    "SYSTEM_FOLDER",
    "Address",
    "CatalogSettings",
    "ConfigFileMissing",
    "IntegritySettings",
    "KeysSettings",
    "LimitsSettings",
    "ListenSettings",
    "Loaded",
    "LogSettings",
    "ModelRule",
    "OllamaSettings",
    "ProxiesSettings",
    "SchedulerSettings",
    "Settings",
    "SettingsError",
    "StateSettings",
    "TimeoutsSettings",
    "TrustedProxy",
    "TunnelSettings",
    "config_path",
    "default_config_text",
    "load",
    "masked",
    "names_a_secret",
    "ollama_address",
    "ollama_host",
    "printable",
    "setting_names",
    "variable_for",
]
