"""The caller's side and our own: nobody reads these but the log."""

from gateway.errors.failure import GatewayError


class ClientWriteTimeout(GatewayError):
    status = 499
    code = "client_write_timeout"
    default_message = "The caller took no byte for too long."


class ClientDisconnected(GatewayError):
    status = 499
    code = "client_disconnected"
    default_message = "The caller closed the connection."


class InternalError(GatewayError):
    """A bug of ours; the traceback stands in the log and nowhere else."""

    default_message = "The gateway failed. Its log holds the reason under this request's id."
