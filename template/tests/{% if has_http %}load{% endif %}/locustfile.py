"""Load for a running service: `make dev` in one terminal, `make load` in another."""

from locust import HttpUser, between, task


class Customer(HttpUser):
    """Places orders, looks at them, pays some."""

    wait_time = between(0.05, 0.2)

    def on_start(self) -> None:
        """Have an order to look at."""
        self.location = ""
        self.place()

    @task(2)
    def place(self) -> None:
        """Place an order."""
        order = {"customer": "load", "item": "engine", "quantity": 1}
        self.location = self.client.post("/v1/orders", json=order).headers.get("location", "")

    @task(10)
    def look(self) -> None:
        """Look at the order."""
        self.client.get(self.location, name="/v1/orders/{order_id}")

    @task(3)
    def read_list(self) -> None:
        """Read a page."""
        self.client.get("/v1/orders?limit=20", name="/v1/orders")

    @task(1)
    def pay(self) -> None:
        """Pay the order, which can be done once."""
        change = {"status": "paid"}
        url, headers = self.location, {"if-match": "*"}
        self.client.patch(url, json=change, headers=headers, name="/v1/orders/{order_id}")
