"""`POST /api/routes/chat/`, as the chat service of Flare's consensus learning has it."""

from pydantic import BaseModel, Field


class FlareRequest(BaseModel):
    """A question."""

    system_message: str = Field("", description="Instructions.")
    user_message: str = Field(min_length=1, description="The question.")
    model: str = Field("default", description="Name of a saved configuration.")


class FlareResponse(BaseModel):
    """An answer."""

    response: str
