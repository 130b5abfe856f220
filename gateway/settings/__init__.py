"""The settings: what there is to set, from where it is read, and what is wrong with it.

Nothing else in the gateway reads the environment or a config file.
"""

from gateway.settings.integrity import IntegritySettings, TunnelSettings
from gateway.settings.loading import Loaded, config_place, load, setting_names, variable_for
from gateway.settings.ollama_host import ollama_address, ollama_host
from gateway.settings.paths import (
    SYSTEM_FOLDER,
    ConfigFileMissing,
    SettingsError,
    default_config_text,
)
from gateway.settings.redaction import masked, names_a_secret, printable
from gateway.settings.schema import Settings
from gateway.settings.tables import (
    CatalogSettings,
    KeysSettings,
    LimitsSettings,
    ListenSettings,
    LogSettings,
    OllamaSettings,
    ProxiesSettings,
    SchedulerSettings,
    StateSettings,
    TrustedProxy,
)
from gateway.settings.timeouts import ModelRule, TimeoutsSettings
from gateway.settings.values import Address

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
    "config_place",
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
