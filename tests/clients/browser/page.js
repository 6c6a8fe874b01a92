// What the test page brings besides the browser's own WebSocket, EventSource
// and fetch: Connect for the web, as a page would bundle it.

import { Code, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { ChatService, MessageStatus, Role } from "duologue:contract";

globalThis.duologue = {
  Code,
  MessageStatus,
  Role,
  chatService: (baseUrl) => createClient(ChatService, createGrpcWebTransport({ baseUrl })),
};
