// A certified OpenID provider, as the live tests want it: access tokens as JWTs for client credentials, keys that rotate on demand.
// PORT says where it listens; the file STATE keeps its keys over a restart.
import { createServer } from 'node:http';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createPrivateKey, generateKeyPairSync, randomUUID } from 'node:crypto';
import { Provider } from 'oidc-provider';

const { PORT: port, STATE: stateFile } = process.env;
const issuer = `http://127.0.0.1:${port}`;
const kinds = { ES256: ['ec', { namedCurve: 'P-256' }], EdDSA: ['ed25519', {}], PS256: ['rsa', { modulusLength: 2048 }] };

const load = () => (existsSync(stateFile) ? JSON.parse(readFileSync(stateFile, 'utf8')) : [fresh('ES256')]);
const save = () => writeFileSync(stateFile, JSON.stringify(keys), { mode: 0o600 });

function fresh(alg) {
  const { privateKey } = generateKeyPairSync(...kinds[alg]);
  return { ...createPrivateKey(privateKey.export({ type: 'pkcs8', format: 'pem' })).export({ format: 'jwk' }), alg, use: 'sig', kid: randomUUID() };
}

// The newest key signs, and comes first; the others are still told of.
let keys = load();
let handler = provider();
save();

function provider() {
  const [{ alg, kid }] = keys;
  const configuration = {
    jwks: { keys },
    clients: [{
      client_id: 'robot', client_secret: 'robot-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
      token_endpoint_auth_method: 'client_secret_basic',
      id_token_signed_response_alg: alg,
    }],
    enabledJWA: { idTokenSigningAlgValues: Object.keys(kinds) },
    extraTokenClaims: () => ({ acme: { teams: ['analysts'], repository: 'acme/app' } }),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          scope: 'read', audience: resource.replace('urn:', ''), accessTokenFormat: 'jwt',
          accessTokenTTL: resource.includes('brief') ? 1 : 600, jwt: { sign: { alg, kid } },
        }),
      },
    },
  };
  return new Provider(issuer, configuration).callback();
}

const server = createServer((request, response) => {
  const url = new URL(request.url, issuer);
  if (url.pathname === '/control/rotate') {
    const kept = url.searchParams.get('keep') === '1' ? keys : [];
    keys = [fresh(url.searchParams.get('alg') ?? 'ES256'), ...kept];
    save();
    handler = provider();
    response.end('rotated\n');
    return;
  }
  handler(request, response);
});
server.listen(Number(port), '127.0.0.1', () => console.log(`listening at ${issuer}`));
process.on('SIGTERM', () => process.exit(0));
