// Writes the client of the committed document, or of the one that OPENAPI names.
export default {
  input: process.env.OPENAPI ?? '../../openapi.json',
  output: 'generated',
  plugins: ['@hey-api/client-fetch', '@hey-api/typescript', '@hey-api/sdk'],
};
