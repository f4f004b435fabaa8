"""A forward proxy that writes down what it is sent."""

from __future__ import annotations

import socket
import threading


class Proxy:
    """Takes connections, remembers what is said, and lets nothing through."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.said.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    def close(self) -> None:
        self._socket.close()
