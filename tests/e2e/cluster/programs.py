"""What runs in pods: small programs for `python -c`, with no more than the image of a service has."""

# arguments: URL, and for a POST a body. Prints the status and the answer, or why there is none.
CALL = """
import http.client, sys, urllib.error, urllib.request
url, *body = sys.argv[1:]
data = body[0].encode() if body else None
request = urllib.request.Request(url, data, {"content-type": "application/json"})
open_ = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
try:
    with open_(request, timeout=5) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except (OSError, http.client.HTTPException) as error:
    reason = getattr(error, "reason", error)
    print("timed out" if isinstance(reason, TimeoutError) else f"refused: {reason!r}")
"""

# arguments: package, address. Places an order over gRPC and prints its id, or the status.
PLACE = """
import importlib, sys, grpc
package, address = sys.argv[1:]
pb = importlib.import_module(f"{package}.v1.orders_pb2")
stubs = importlib.import_module(f"{package}.v1.orders_pb2_grpc")
with grpc.insecure_channel(address) as channel:
    try:
        order = stubs.OrderServiceStub(channel).PlaceOrder(
            pb.PlaceOrderRequest(customer="ada", item="engine", quantity=1), timeout=5, wait_for_ready=True
        )
        print("placed", order.id)
    except grpc.RpcError as error:
        print("refused:", error.code().name, error.details())
"""
