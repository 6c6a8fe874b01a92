// A real OpenID provider, which issues JSON Web Tokens.

import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

import Provider from "oidc-provider";

export const AUDIENCE = "https://chat.example";
const basic = `Basic ${Buffer.from("ada:secret-of-ada").toString("base64")}`;

// A private key in the form of the provider's settings.
export function newKey(kid, alg) {
  const pair = alg === "RS256"
    ? generateKeyPairSync("rsa", { modulusLength: 2048 })
    : generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { ...pair.privateKey.export({ format: "jwk" }), kid, alg, use: "sig" };
}

// An issuer on a port of its own. Its keys can be replaced while it runs.
export class Issuer {
  static async start(...keys) {
    const issuer = new Issuer();
    issuer.server = createServer((request, response) => issuer.handle(request, response));
    issuer.server.listen(0, "127.0.0.1");
    await once(issuer.server, "listening");
    issuer.url = `http://127.0.0.1:${issuer.server.address().port}`;
    issuer.use(...keys);
    return issuer;
  }

  // The first key signs.
  use(...keys) {
    const alg = keys[0].alg;
    const provider = new Provider(this.url, {
      clients: [{
        client_id: "ada",
        client_secret: "secret-of-ada",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: alg,
      }],
      features: {
        clientCredentials: { enabled: true },
        devInteractions: { enabled: false },
        resourceIndicators: {
          enabled: true,
          getResourceServerInfo: () => ({
            scope: "chat",
            audience: AUDIENCE,
            accessTokenTTL: 600,
            accessTokenFormat: "jwt",
            jwt: { sign: { alg } },
          }),
        },
      },
      jwks: { keys },
    });
    this.handle = provider.callback();
  }

  async token() {
    const body = new URLSearchParams({ grant_type: "client_credentials", resource: AUDIENCE, scope: "chat" });
    const answer = await fetch(`${this.url}/token`, { method: "POST", headers: { authorization: basic }, body });
    const { access_token: token, ...rest } = await answer.json();
    assert.equal(answer.status, 200, JSON.stringify(rest));
    return token;
  }

  stop() {
    this.server.close();
    this.server.closeAllConnections();
  }
}
