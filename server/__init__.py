"""The online side: pipeline, gRPC service, histories, command line."""
