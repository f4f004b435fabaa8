"""The line of the registry. Every command loads it, so it imports neither the flow nor Prefect."""

from consensus_flows.flows.algorithms import Algorithm

ALGORITHM = Algorithm(
    name="shortest",
    summary="Ask many models; return the shortest answer that others support.",
    module="shortest_answer.algorithm",
    block="shortest_answer.algorithm:Shortest",
)
