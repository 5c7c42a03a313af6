// A certified OpenID provider, as people log in at it: public clients, authorization code with PKCE, device code, refresh tokens that rotate.
// Everybody is who they say. `acr` and `amr` are what the login says that it was (the form's `acr`, `amr`), or nothing.
// PORT says where it listens, MODULES where oidc-provider is installed; the file SETTINGS is read at each start, and
// its key lies beside it.
import { createServer } from 'node:http';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createPrivateKey, generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const { PORT: port, MODULES: modules, SETTINGS: settingsFile } = process.env;
const { Provider, interactionPolicy } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`).href);
const issuer = `http://127.0.0.1:${port}`;
const settings = JSON.parse(readFileSync(settingsFile, 'utf8'));

const keyFile = `${settingsFile}.key`;
if (!existsSync(keyFile)) {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const jwk = createPrivateKey(privateKey.export({ type: 'pkcs8', format: 'pem' })).export({ format: 'jwk' });
  writeFileSync(keyFile, JSON.stringify({ ...jwk, alg: 'ES256', use: 'sig', kid: 'people' }), { mode: 0o600 });
}
const key = JSON.parse(readFileSync(keyFile, 'utf8'));

const client = (id, more = {}) => ({
  client_id: id, application_type: 'native', token_endpoint_auth_method: 'none',
  grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
  redirect_uris: ['http://127.0.0.1/callback'], response_types: ['code'], id_token_signed_response_alg: 'ES256', ...more,
});

const provider = new Provider(issuer, {
  clients: [client('postern-cli'), client('other')],
  jwks: { keys: [key] },
  scopes: ['openid', 'profile', 'offline_access'],
  claims: { openid: ['sub', 'groups', 'acr', 'amr', 'auth_time'], profile: ['name'], acr: null, amr: null, auth_time: null },
  conformIdTokenClaims: false,
  acrValues: ['gold', 'silver'],
  issueRefreshToken: async (ctx, it, code) => it.grantTypeAllowed('refresh_token') && code.scopes.has('offline_access'),
  rotateRefreshToken: true,
  ttl: { IdToken: settings.idTokenSeconds ?? 600, DeviceCode: 120, RefreshToken: 3600, Grant: 3600, Session: 3600, Interaction: 600, AccessToken: 600 },
  features: {
    devInteractions: { enabled: false },
    revocation: { enabled: true },
    deviceFlow: {
      enabled: true, mask: '****-****',
      userCodeInputSource: (ctx, form) => { ctx.body = `<html><body>${form}</body></html>`; },
      userCodeConfirmSource: (ctx, form) => { ctx.body = `<html><body>${form}<button type="submit" form="op.deviceConfirmForm">ok</button></body></html>`; },
      successSource: (ctx) => { ctx.body = '<html><body>device: done</body></html>'; },
    },
  },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, name: id, groups: settings.groups ?? ['analysts'] }) }),
  pkce: { required: () => true, methods: ['S256'] },
});
provider.on('server_error', (ctx, error) => console.error(error));

const body = async (request) => {
  let text = '';
  for await (const chunk of request) text += chunk;
  return new URLSearchParams(text);
};

// One step for a whole interaction: who it is, and that they agree.
async function interact(request, response) {
  const details = await provider.interactionDetails(request, response);
  if (request.method === 'GET') {
    response.setHeader('content-type', 'text/html');
    response.end(`<html><body>login for ${details.params.client_id}: ${details.prompt.name} ${details.prompt.reasons.join(' ')}</body></html>`);
    return;
  }
  const form = await body(request);
  if (form.get('deny')) {
    await provider.interactionFinished(request, response, { error: 'access_denied', error_description: 'not today' }, { mergeWithLastSubmission: false });
    return;
  }
  const accountId = form.get('login') ?? details.session?.accountId;
  const grant = details.grantId ? await provider.Grant.find(details.grantId) : new provider.Grant({ accountId, clientId: details.params.client_id });
  grant.addOIDCScope('openid profile offline_access');
  grant.addOIDCClaims(['sub', 'groups', 'acr', 'amr', 'auth_time', 'name']);
  const grantId = await grant.save();
  const login = { accountId, remember: false, ts: Math.floor(Date.now() / 1000) };
  if (form.get('acr')) login.acr = form.get('acr');
  if (form.get('amr')) login.amr = form.get('amr').split(' ');
  await provider.interactionFinished(request, response, { login, consent: { grantId } }, { mergeWithLastSubmission: true });
}

const handler = provider.callback();
const server = createServer((request, response) => {
  if (request.url.startsWith('/interaction/')) {
    interact(request, response).catch((error) => { console.error(error); response.statusCode = 500; response.end(String(error)); });
    return;
  }
  handler(request, response);
});
server.listen(Number(port), '127.0.0.1', () => console.log(`listening at ${issuer}`));
process.on('SIGTERM', () => process.exit(0));
