"""The chat service of the FastAPI tutorial, in its own few lines.

The original kept a session's messages in Redis; here they stay in memory, as in
the gateway that is measured beside it (`--store memory`). Nothing is added that
slows it down, and nothing is left out that it needs to answer.
"""

from datetime import datetime
from uuid import uuid4

from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect, status

REPLY = "Response: Simulating response from the GPT service"

app = FastAPI()
sessions: dict[str, dict] = {}


def message(text: str) -> dict:
    return {"id": str(uuid4()), "msg": text, "timestamp": str(datetime.now())}


@app.get("/test")
async def test():
    return {"msg": "API is Online"}


@app.post("/token")
async def create_token(name: str):
    if not name:
        raise HTTPException(400, {"loc": "name", "msg": "Enter a valid name"})
    token = str(uuid4())
    session = {"token": token, "messages": [], "name": name, "session_start": str(datetime.now())}
    sessions[token] = session
    return session


@app.post("/refresh_token")
async def refresh_token(token: str):
    session = sessions.get(token)
    if session is None:
        raise HTTPException(400, "Session expired or does not exist")
    return session


@app.websocket("/chat")
async def chat(websocket: WebSocket, token: str = ""):
    session = sessions.get(token)
    if session is None:
        await websocket.close(status.WS_1008_POLICY_VIOLATION)
        return
    await websocket.accept()
    messages = session["messages"]
    try:
        while True:
            text = await websocket.receive_text()
            messages.append(message(text))
            messages.append(message(REPLY))
            await websocket.send_text(REPLY)
    except WebSocketDisconnect:
        pass
