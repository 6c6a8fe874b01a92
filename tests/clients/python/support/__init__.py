"""What the Python clients share: a gateway to talk to, the wire contract's
generated code, and one client per protocol behind one interface."""

import os

# grpcio warns about every subprocess otherwise. Set before it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
