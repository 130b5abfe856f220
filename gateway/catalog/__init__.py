"""What models there are: cached list, names, sizes, what is loaded."""

from gateway.catalog.catalog import Catalog, CatalogSnapshot
from gateway.catalog.listing import Listing, Model
from gateway.catalog.lists import Served
from gateway.catalog.names import is_cloud_name
from gateway.catalog.source import ShowReply, Source

__all__ = [
    "Catalog",
    "CatalogSnapshot",
    "Listing",
    "Model",
    "Served",
    "ShowReply",
    "Source",
    "is_cloud_name",
]
