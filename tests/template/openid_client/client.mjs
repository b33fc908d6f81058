// A relying party on openid-client: discovery, code with PKCE, userinfo, refresh, introspection, revocation.
// It prints the address for the browser, reads the one that the browser came back to, and prints what it has seen.
import * as openid from "openid-client";
import { createInterface } from "node:readline/promises";

const { ISSUER, CLIENT_ID, CLIENT_SECRET, REDIRECT_URI } = process.env;
const config = await openid.discovery(new URL(ISSUER), CLIENT_ID, CLIENT_SECRET, undefined, {
  execute: [openid.allowInsecureRequests],
});

const verifier = openid.randomPKCECodeVerifier();
const state = openid.randomState();
const nonce = openid.randomNonce();
const address = openid.buildAuthorizationUrl(config, {
  redirect_uri: REDIRECT_URI,
  scope: "openid profile email",
  code_challenge: await openid.calculatePKCECodeChallenge(verifier),
  code_challenge_method: "S256",
  state,
  nonce,
});
console.log(address.href);

const lines = createInterface({ input: process.stdin });
const callback = new URL(await lines.question(""));
lines.close();

const tokens = await openid.authorizationCodeGrant(config, callback, {
  pkceCodeVerifier: verifier,
  expectedState: state,
  expectedNonce: nonce,
  idTokenExpected: true,
});
const claims = tokens.claims();
const userinfo = await openid.fetchUserInfo(config, tokens.access_token, claims.sub);
const refreshed = await openid.refreshTokenGrant(config, tokens.refresh_token);
const before = await openid.tokenIntrospection(config, refreshed.access_token);
await openid.tokenRevocation(config, refreshed.refresh_token);
const after = await openid.tokenIntrospection(config, refreshed.access_token);
const refusal = await openid.refreshTokenGrant(config, refreshed.refresh_token).catch((error) => error.error);
console.log(JSON.stringify({ claims, userinfo, active: [before.active, after.active], refusal }));
