"""Bare FastAPI: the rendered service's own routes and storage, and no stack."""

import sys

import uvicorn
from fastapi import FastAPI
from order_service.api.orders import order_routes
from order_service.domain.service import OrderService
from order_service.storage.memory import InMemoryOrders

app = FastAPI()
app.include_router(order_routes(OrderService(InMemoryOrders())))

if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
