"""Server, worker and panel: up, down, in order?"""
