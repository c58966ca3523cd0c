"""REST under `/api/v1`: HTTPS with client certificates, OpenAPI published.

`app.create_app` makes the ASGI application from a store and two ports (`ports`): the fleet of live hosts and the
certificate authority. `tls.uvicorn_config` serves it so that each request knows its client's certificate. Import the
submodules; this package imports nothing, because the CLI starts here too.
"""
