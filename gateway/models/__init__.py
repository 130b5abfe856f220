"""What models there are: cached list, names, sizes, what is loaded."""

from gateway.models.catalog import Catalog, CatalogSnapshot
from gateway.models.list_cache import CachedList
from gateway.models.listing import Listing, Model
from gateway.models.names import is_cloud_name
from gateway.models.source import ShowReply, Source

__all__ = [
    "CachedList",
    "Catalog",
    "CatalogSnapshot",
    "Listing",
    "Model",
    "ShowReply",
    "Source",
    "is_cloud_name",
]
